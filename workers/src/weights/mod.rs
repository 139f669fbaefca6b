//! From files to this rank's shard: safetensors folders and GGUF files, mapped, read only where needed.
