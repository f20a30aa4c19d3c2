"""The configuration: YAML files in, frozen types of core out.

document     text → nodes that know their file and line
values       the grammar of single values
models       the keys: what exists, is required, means
validation   nodes and models → models, or problems with remedies
freezing     models → core types; rules over several keys
loading      includes, defaults, and whom a problem stops
files        reading what a person names
secrets      a reference → the secret, at the moment of use
schema       the JSON Schema and the sample
"""

from mxdeliver.edge.config.files import read_file
from mxdeliver.edge.config.loading import BrokenClient, Configuration, load
from mxdeliver.edge.config.schema import json_schema, sample

__all__ = ["BrokenClient", "Configuration", "json_schema", "load", "read_file", "sample"]
