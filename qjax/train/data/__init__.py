"""Data to train on: bytes of text files that every machine has, or the user's own."""

from qjax.train.data.text import Text as Text
from qjax.train.data.text import Windows as Windows
from qjax.train.data.text import read_text as read_text
from qjax.train.data.text import standard_library as standard_library
