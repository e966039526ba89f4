"""KEEP: the database and the files. The only package that knows SQLAlchemy."""
