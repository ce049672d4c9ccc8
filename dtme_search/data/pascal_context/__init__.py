"""PASCAL-Context with the parts, saliency and normals that multi-task papers use."""
