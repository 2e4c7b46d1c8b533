"""What a route does about a request: it is read, let in, run and waited for."""
