"""--export_recipe: a run's checked inputs as a recipe of sd-scripts, instead of training."""

from gm.console import log
from gm.parallel.ranks import Ranks
from gm.recipes.export_files import recipe_files, write_recipe
from gm.recipes.export_sd_scripts import export_sd_scripts
from gm.training.inputs import Inputs


def export(inputs: Inputs, ranks: Ranks) -> None:
    """Writes both files and logs what is otherwise there and how it is run. UserError where one of the files is there already."""
    assert inputs.options.export_recipe is not None
    with ranks.agreeing():
        if not ranks.is_main:
            return
        files = recipe_files(inputs.options.export_recipe)
        exported = export_sd_scripts(inputs.config, inputs.options, inputs.subjects, inputs.class_folders, ranks.size)
        command = write_recipe(exported, files)
    for remark in exported.remarks:
        log.warning("otherwise in sd-scripts: %s", remark)
    for need in exported.needs:
        log.info("%s", need)
    log.info("written: %s and %s; in sd-scripts' folder:\n%s", *files, command)
