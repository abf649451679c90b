"""stub"""
from pathlib import Path
CATALOGUE = Path("config/corpora.yaml")
def read_catalogue(path): return {n: {} for n in ("openr1_46k","openr1_48k_complement","openr1_46k_weak","miniature_openr1","miniature_complement","miniature_weak","gsm8k")}
def spec_of(name, entry, data_dir): return {"name": name, "entry": entry}
def local_files(spec): return []
