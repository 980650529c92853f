"""What runs the nodes of a graph: small ones in one program, large ones alone or page by page."""
