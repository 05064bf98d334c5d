"""The Python interface: `import ssl_inv`."""
