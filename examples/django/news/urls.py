from django.contrib import admin
from django.urls import path
from strata.integrations.django import health

from blog import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("healthz", health),
    path("articles/<int:id>", views.article),
    path("articles/<slug:slug>", views.article_by_slug),
    path("articles/<int:id>/views", views.count),
]
