"""A delivery to try: sample data, fresh keys and three clients' servers, all on this machine.

What is made is real: a configuration, secrets, keys and a warehouse in files, delivered by
`mxdeliver run` over SSH and read back by `mxdeliver verify`. In reading order: `clients` (who they
are), `keys`, `warehouse`, `server`, `folder` (what lies where), `steps` (the demo from begin to end).
"""
