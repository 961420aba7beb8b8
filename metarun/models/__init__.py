"""Networks: one file each, with one concrete ``Model``, named in ``conf/model/``."""
