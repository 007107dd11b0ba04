"""What ties a project to this backend: connected, served, put back. Speaks to Label Studio and the store."""
