"""Task families: one file each, with one concrete ``Dataset``, named in ``conf/dataset/``."""
