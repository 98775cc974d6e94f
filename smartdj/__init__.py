"""Generated code of the SmartDJ protocol: `smartdj.v1`, made from ``protos/`` by ``make protos``."""
