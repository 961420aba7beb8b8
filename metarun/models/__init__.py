"""Networks: one file each, one concrete ``Model`` in it, named in ``conf/model/``."""
