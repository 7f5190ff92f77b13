//! A notebook becomes a pipeline, and the same one again changes nothing.

use serde_json::json;

use super::harness::Service;

#[test]
fn a_notebook_runs_as_a_pipeline_and_is_applied_again_without_a_change() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "numbers"]);
    for (name, text) in [("a", "1 2 3"), ("b", "10 20")] {
        let file = service.file(name, text.as_bytes());
        ada.run(&["put", "numbers@main", &file]);
    }
    let notebook = json!({
        "nbformat": 4, "nbformat_minor": 5,
        "metadata": { "kernelspec": { "name": "python3", "language": "python", "display_name": "Python 3" } },
        "cells": [
            { "cell_type": "markdown", "metadata": {}, "source": ["# Sums"] },
            { "cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [],
              "source": ["%matplotlib inline\n", "import os, pathlib\n", "folder = pathlib.Path('/pfs/numbers')"] },
            { "cell_type": "code", "execution_count": null, "metadata": { "tags": ["skip"] }, "outputs": [],
              "source": ["!ls /pfs"] },
            { "cell_type": "code", "execution_count": 2, "metadata": {}, "outputs": [],
              "source": ["for file in folder.iterdir():\n", "    total = sum(map(int, file.read_text().split()))\n",
                         "    pathlib.Path('/pfs/out', file.name).write_text(str(total))\n", "    display(total)"] },
        ],
    });
    let path = service.file("My sums.ipynb", notebook.to_string().as_bytes());
    let apply = ["pipeline", "from-notebook", &path, "--input", "numbers:/*", "--apply"];
    let applied = ada.json(&apply);
    assert_eq!(applied["items"][0]["change"], "created");
    ada.run(&["wait", "My-sums@main", "--timeout", "2m"]);
    assert_eq!(ada.run(&["cat", "My-sums@main:/a"]), "6");
    assert_eq!(ada.run(&["cat", "My-sums@main:/b"]), "30");
    assert_eq!(ada.json(&apply)["items"][0]["change"], "unchanged");

    let yaml = service.files.path().join("sums.yaml");
    let yaml = yaml.to_str().expect("a path");
    ada.run(&["pipeline", "from-notebook", &path, "--input", "numbers:/*", "-o", yaml]);
    let again = ada.json(&["pipeline", "apply", "-f", yaml]);
    assert_eq!(again["items"][0]["change"], "unchanged");

    let shells = service.file(
        "shells.ipynb",
        notebook.to_string().replace("\"skip\"", "\"keep\"").as_bytes(),
    );
    let refused = ada.fails(1, &["pipeline", "from-notebook", &shells, "--input", "numbers:/*"]);
    assert!(refused.contains("cell 3, line 1: `!ls /pfs`"), "{refused}");
    ada.fails(2, &["pipeline", "from-notebook", &path, "--input", "numbers"]);
}
