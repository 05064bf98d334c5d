"""From videos to object tracks: find moving objects, follow them, check by tracking backwards, write a table of views.

After Wang and Gupta, "Unsupervised Learning of Visual Representations Using Videos" (ICCV 2015). Wang, He and Gupta,
"Transitive Invariance for Self-supervised Visual Representation Learning" (ICCV 2017), use such tracks as edges between
views of one instance.
"""
