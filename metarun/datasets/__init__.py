"""Task families: one file each, one concrete ``Dataset`` in it, named in ``conf/dataset/``."""
