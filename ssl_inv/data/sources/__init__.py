"""Data sources, one file each; the table of their names in recipes."""

SOURCES = {
    "folder": "folder:folder",
    "rendered": "rendered.source:rendered",
    "table": "table:table",
    "threediebench": "threediebench:threediebench",
    "torchvision": "torchvision:torchvision_dataset",
}
"""Name in recipes -> "module:function", relative to this package."""
