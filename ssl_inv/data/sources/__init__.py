"""Data sources, one file each, and the table of their names in recipes.

A new source is a file with a function that returns `Data`, a line in the table, and a tiny data set in
`tests/data/test_conformance.py`.
"""

SOURCES = {
    "arrays": "arrays:arrays",
    "arrow": "arrow.source:arrow",
    "dataset": "given:dataset",
    "folder": "folder:folder",
    "given": "given:given",
    "meshes": "meshes.source:meshes",
    "masked_videos": "masked_videos:masked_videos",
    "rendered": "rendered.source:rendered",
    "shards": "shards:shards",
    "table": "table:table",
    "threediebench": "threediebench:threediebench",
    "torchvision": "torchvision:torchvision_dataset",
    "voc": "voc:voc",
}
"""Name in recipes -> "module:function", relative to this package."""
