"""ssl-inv: pretrain image encoders that know what is in an image and how it was seen."""
