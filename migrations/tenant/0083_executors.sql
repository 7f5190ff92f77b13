-- What ran a job's code: `process` = among the programs of a machine, `container` = in an image.
alter table jobs
    add column executor text;
