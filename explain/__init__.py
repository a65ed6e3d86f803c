"""What a classifier looks at: heat maps of its classes, how faithful they are, and pictures of both.

The maps are computed by the packages grad-cam (class activation maps) and captum (the others).
"""
