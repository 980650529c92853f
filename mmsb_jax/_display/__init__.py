"""How things are shown: as text in a terminal, as HTML in a notebook.

What is shown says its rows; these make tables of them. They know nothing else of the package.
"""
