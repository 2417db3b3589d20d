"""Defences against zeroed features, and attacks that know them: notebooks 05 and 06."""
