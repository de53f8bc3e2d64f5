from django.db import migrations
from strata.integrations.django import StrataFields


class Migration(migrations.Migration):
    dependencies = [("blog", "0001_initial")]
    operations = [StrataFields("author"), StrataFields("article"), StrataFields("visits")]
