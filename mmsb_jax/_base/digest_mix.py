"""Constants of the digest's mix, for the host and the device alike.

The mix is lowbias32 (C. Wellons, "Prospecting for hash functions", 2018): two rounds of shift,
exclusive or and multiply.
"""

FIRST, SECOND = 0x7FEB352D, 0x846CA68B
"""Its factors."""
GOLDEN = 0x9E3779B9
"""Added to an index before it is mixed into a key, so that index 0 has one."""
SALT = 0x85EBCA6B
"""Tells the second lane from the first."""
