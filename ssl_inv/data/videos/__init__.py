"""Videos to object tracks: find what moves, follow it, verify by tracking backwards, write a table of views.

After Wang and Gupta, "Unsupervised Learning of Visual Representations Using Videos" (ICCV 2015), whose tracks are the
edges between views of one instance in Wang, He and Gupta, "Transitive Invariance for Self-supervised Visual
Representation Learning" (ICCV 2017).
"""
