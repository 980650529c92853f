"""How the bytes of one array are written and put back, and its digest."""
