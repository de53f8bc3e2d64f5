from strata import WriteMode
from strata.integrations.django import register

from blog.models import Article, Author, Visits

authors = register(Author)
articles = register(Article)
visits = register(Visits, write_mode=WriteMode.WRITE_BEHIND)
