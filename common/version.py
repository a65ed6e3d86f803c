"""The version: printed by --version, kept in environment.json, told of in CHANGELOG.md."""

VERSION = "0.7.0"
