"""Layouts of downloads by the name that the command line uses: each knows the folders and file names of one of them."""

from . import folder, isic2017, polyps, synapse

LAYOUTS = {
    "synapse": synapse.LAYOUT,
    "colondb": polyps.COLONDB,
    "clinicdb": polyps.CLINICDB,
    "isic2017": isic2017.LAYOUT,
    "folder": folder.LAYOUT,
}
