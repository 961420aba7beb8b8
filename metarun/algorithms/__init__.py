"""Meta-learning methods: one file each, with one concrete ``Algorithm``, named in ``conf/algo/``."""
