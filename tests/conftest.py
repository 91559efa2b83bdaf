"""The servers, for all tests that ask for one."""

from servers import fault_proxy, nats_server, postgres_server, redis_server

__all__ = ["fault_proxy", "nats_server", "postgres_server", "redis_server"]
