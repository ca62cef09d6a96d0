"""Thin Trio adapters, one file per transport, and the parts that they share.

They read, write, wait and close; protocol decisions are the machines' in `sansio/`.
"""
