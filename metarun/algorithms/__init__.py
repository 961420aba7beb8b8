"""Meta-learning methods: one file each, one concrete ``Algorithm`` in it, named in ``conf/algo/``."""
