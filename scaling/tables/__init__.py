"""Results tables: columns, formats by name, files, and the checks before a fit."""

from scaling.tables.dataset import Dataset as Dataset
from scaling.tables.formats import NumberFormat as NumberFormat
from scaling.tables.formats import effective_bits as effective_bits
from scaling.tables.formats import parse_format as parse_format
