"""The workloads. Each is a function that gives a `Part` of the page.

one_file  a        one file of transactions, the whole path
avro      avro     Avro alone
openpgp   openpgp  OpenPGP alone
day       b        a whole day of one client
clients   c        many small clients
transfer  d        the transfer of a day's files
          e        the transfer of one large file
memory    f        the memory of large files
startup   g        how long commands take to answer
"""
