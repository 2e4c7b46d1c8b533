"""`python -m service`: serve with the settings of the environment."""

from service.server import serve
from service.settings import Settings

serve(Settings())
