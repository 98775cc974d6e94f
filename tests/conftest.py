"""What holds for all tests."""

from hypothesis import settings

# A busy machine is no fault of the code: tests assert no speed, that is what benchmarks are for.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
