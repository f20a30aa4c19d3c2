"""One module or package per outside thing; siblings never import each other."""
