"""What all tests share: hypothesis may take its time, as machines that test are busy."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
