-- The application's role and its database: it owns what it makes, and is no superuser. Run once, by the superuser.
\getenv password STRATA_DB_PASSWORD
CREATE ROLE strata LOGIN PASSWORD :'password';
CREATE DATABASE strata OWNER strata;
