"""The layouts by their names on the command line. A layout describes the folders and file names of a download."""

from . import folder, isic2017, polyps, synapse

LAYOUTS = {
    "synapse": synapse.LAYOUT,
    "colondb": polyps.COLONDB,
    "clinicdb": polyps.CLINICDB,
    "isic2017": isic2017.LAYOUT,
    "folder": folder.LAYOUT,
}
