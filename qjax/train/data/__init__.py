"""Data to train on: text and images that every machine has, the user's own, and Grain pipelines."""

from qjax.train.data.images import ImageFolder as ImageFolder
from qjax.train.data.images import Images as Images
from qjax.train.data.images import digits as digits
from qjax.train.data.pipelines import Stream as Stream
from qjax.train.data.pipelines import batches_of as batches_of
from qjax.train.data.pipelines import in_order as in_order
from qjax.train.data.text import Cut as Cut
from qjax.train.data.text import Text as Text
from qjax.train.data.text import Windows as Windows
from qjax.train.data.text import read_text as read_text
from qjax.train.data.text import standard_library as standard_library
