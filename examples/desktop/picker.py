"""The model picker: nano, what was opened lately, and two ways to open something else."""

import html
from pathlib import Path

from PySide6.QtCore import QSettings, Qt, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog, QWidget

NANO = "nano"
MOST_RECENT = 8
_FOLDER, _FILE = "\0folder", "\0file"  # what no path can be


class ModelPicker(QComboBox):
    """Shows the open model; `picked` says which one the user wants instead."""

    picked = Signal(str)

    def __init__(self, settings: QSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self._open = ""
        self.setAccessibleName("Model")
        self.setMinimumContentsLength(16)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.activated.connect(self._chosen)
        self._fill()

    @property
    def last(self) -> str:
        """The model that was open when the app was last used; nano if that is gone."""
        path = str(self._settings.value("last", NANO))
        return path if path == NANO or Path(path).exists() else NANO

    def show_open(self, path: str) -> None:
        """Show that a model was opened, and remember it."""
        self._open = path
        self._settings.setValue("last", path)
        if path != NANO:
            others = [recent for recent in self.recent() if recent != path]
            self._settings.setValue("recent", [path, *others][:MOST_RECENT])
        self._fill()

    def show_again(self) -> None:
        """Show the open model, after another one could not be opened."""
        self.setCurrentIndex(max(0, self.findData(self._open)))

    def recent(self) -> list[str]:
        """Return the paths that were opened last, the latest first."""
        # What QSettings gives depends on how many there are; what a file holds, on who wrote it.
        kept = self._settings.value("recent", [])
        paths = kept if isinstance(kept, list) else [kept]
        return [path for path in paths if isinstance(path, str) and path][:MOST_RECENT]

    def _fill(self) -> None:
        self.clear()
        self.addItem("nano (comes with rdlite)", NANO)
        for path in self.recent():
            self.addItem(Path(path).name, path)
            tip = f"<qt>{html.escape(path)}</qt>"  # or a name like HTML would be read as such
            self.setItemData(self.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.insertSeparator(self.count())
        self.addItem("Open a bundle folder\N{HORIZONTAL ELLIPSIS}", _FOLDER)
        self.addItem("Open a .gguf file\N{HORIZONTAL ELLIPSIS}", _FILE)
        self.show_again()

    def _chosen(self, row: int) -> None:
        what = self.itemData(row)
        if what == _FOLDER:
            path = QFileDialog.getExistingDirectory(self, "Open a bundle folder")
        elif what == _FILE:
            path, _ = QFileDialog.getOpenFileName(self, "Open a model", "", "GGUF (*.gguf *.GGUF)")
        else:
            path = what
        if path and path != self._open:
            self.picked.emit(path)
        else:
            self.show_again()
