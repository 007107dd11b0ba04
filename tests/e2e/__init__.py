"""A package, so that Label Studio and the backend beside it end with the last of these tests."""
