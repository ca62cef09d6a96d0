"""Policies: who may talk to a server, and what browsers are told. Decisions are pure."""
