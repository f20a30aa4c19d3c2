"""A sealed bundle goes to the client's server: one connection, files in parallel, manifest last.

The order is what keeps a day whole (reliability: ledger before action for temporary names, action
before ledger for success):

0. every sealed file is compared with its SHA-256, large ones while the steps up to 3 are taken
1. what was done at another server or directory is set aside: it counts only where it was done
2. look at every final name: there already and ours, or somebody else's (REMOTE_CONFLICT)
3. one commit names all temporary names; earlier ones are removed; then everything, the manifest
   included, is uploaded
4. one commit says which names are about to appear; then the daily files are renamed
5. one commit says that they are there; only then is the manifest renamed

Where the server has refused to rename a fresh temporary file, with both names looked at and the
extension of no use either, files are written under their final names instead (`direct`), and the
client's profile remembers it for a week:

3. a manifest of ours that lies there already is taken away: partial files never lie beside one
4. one commit says which names are about to be made; each is made new, never opened when it exists,
   and one commit says that the server has made them, before the first byte
5. one commit says that they are there, whole; only then is the manifest written, in the same way

Killed anywhere, the next attempt starts again at 1 and leaves alone what has appeared; of what it
had begun to write directly it removes only what the ledger says it has made.

Reading order: `steps`, `existing` (what lies there already), `profile` (what the server allows),
`sealed` (what is sent is what was sealed), `acknowledged` (what has arrived is told).
"""

from mxdeliver.push.steps import push

__all__ = ["push"]
