import os

from django.core.asgi import get_asgi_application
from strata.integrations.django import lifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "news.settings")
application = lifespan(get_asgi_application())
