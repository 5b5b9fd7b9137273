"""The engines that run teachers: one protocol (base), one module for each engine, one registry."""
