//! Outputs that are loaded into the tables of a database.

use std::str::FromStr;

use contract::api::{Job, JobState};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::postgres::TestDatabase;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::jobs_egress::{job_in, rig, secret};
use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};

/// A database, and a port of this machine behind which it is: the server itself has none.
struct Shop {
    pool: PgPool,
    port: u16,
    user: String,
    name: String,
    _database: TestDatabase,
}

impl Shop {
    async fn start(rig: &Rig, person: &Person) -> Self {
        let database = testkit::postgres::fresh_database().await;
        let url = reqwest::Url::parse(&database.url).unwrap();
        let password = url.password().unwrap_or("none");
        secret(rig, person, "db", json!({ "PACHYDERM_SQL_PASSWORD": password })).await;
        let options = PgConnectOptions::from_str(&database.url).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shop = Self {
            pool: database.pool().await,
            port: listener.local_addr().unwrap().port(),
            user: options.get_username().to_owned(),
            name: options.get_database().unwrap().to_owned(),
            _database: database,
        };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (host, port) = (options.get_host().to_owned(), options.get_port());
                let directory = options
                    .get_socket()
                    .map(|directory| directory.join(format!(".s.PGSQL.{port}")));
                tokio::spawn(async move {
                    let copied = match directory {
                        Some(path) => {
                            let mut server = UnixStream::connect(path).await?;
                            tokio::io::copy_bidirectional(&mut socket, &mut server).await
                        }
                        None => {
                            let mut server = TcpStream::connect((host, port)).await?;
                            tokio::io::copy_bidirectional(&mut socket, &mut server).await
                        }
                    };
                    copied.map(drop)
                });
            }
        });
        shop.run("create table users (id bigint primary key, name text); create schema s; create table s.\"Days\" (day date)")
            .await;
        shop
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    async fn users(&self) -> Vec<String> {
        self.rows("select concat(id, ' ', coalesce(name, 'null')) from users order by id")
            .await
    }

    fn spec(&self, format: &Value) -> Value {
        let mut spec = shell("p", "in", "/*", "cp -r /pfs/in/* /pfs/out/");
        let Self { user, port, name, .. } = self;
        let url = format!("postgresql://{user}@127.0.0.1:{port}/{name}");
        let key = "PACHYDERM_SQL_PASSWORD";
        spec["egress"] =
            json!({ "sql_database": { "url": url, "file_format": format, "secret": { "name": "db", "key": key } } });
        spec
    }
}

async fn latest(rig: &Rig, person: &Person) -> Job {
    rig.job(person, rig.jobs(person, "p").await[0].commit_set, "p").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directories_of_an_output_are_tables_and_loading_them_again_doubles_nothing() {
    let (rig, ada) = rig().await;
    let shop = Shop::start(&rig, &ada).await;
    shop.run("insert into users values (99, 'from before')").await;
    rig.put(
        &ada,
        "in",
        &[
            ("users/a", "1,\"a, b\"\n2,\n"),
            ("users/b", "3,c"),
            ("s.Days/x", "2026-11-26\n"),
        ],
    )
    .await;

    let applied = rig.apply(&ada, vec![shop.spec(&json!({ "type": "CSV" }))]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 2, 2, 0);
    assert_eq!(shop.users().await, ["1 a, b", "2 null", "3 c"]);
    assert_eq!(shop.rows("select day::text from s.\"Days\"").await, ["2026-11-26"]);

    // A table that did not change is left alone, one whose directory is gone loses its rows.
    shop.run("insert into users values (98, 'by hand')").await;
    rig.remove(&ada, "in", "/s.Days").await;
    assert_eq!(latest(&rig, &ada).await.state, JobState::Success);
    assert_eq!(shop.users().await.len(), 4);
    assert_eq!(
        shop.rows("select day::text from s.\"Days\"").await,
        Vec::<String>::new()
    );
    rig.put(&ada, "in", &[("users/b", "3,other")]).await;
    assert_eq!(latest(&rig, &ada).await.state, JobState::Success);
    assert_eq!(shop.users().await, ["1 a, b", "2 null", "3 other"]);

    // What is wrong with a row leaves everything as it was, and is told.
    rig.put(&ada, "in", &[("users/b", "three,x")]).await;
    let job = latest(&rig, &ada).await;
    assert_eq!(job.state, JobState::Failure);
    let reason = job.reason.unwrap();
    assert!(reason.contains("`/users/b`") && reason.contains("three"), "{reason}");
    rig.put(&ada, "in", &[("users/b", "3,other"), ("absent/x", "1")]).await;
    let reason = latest(&rig, &ada).await.reason.unwrap();
    assert!(reason.contains("there is no table \"absent\""), "{reason}");
    rig.remove(&ada, "in", "/absent").await;
    rig.put(&ada, "in", &[("loose", "1")]).await;
    let reason = latest(&rig, &ada).await.reason.unwrap();
    assert!(reason.contains("`/loose`"), "{reason}");
    assert_eq!(shop.users().await, ["1 a, b", "2 null", "3 other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_json_and_columns_in_another_order_are_loaded_by_name() {
    let (rig, ada) = rig().await;
    let shop = Shop::start(&rig, &ada).await;
    let lines = "{\"name\": \"x\\ny\", \"id\": 9007199254740993}\n{\"id\": 2}\n";
    rig.put(&ada, "in", &[("users/a", lines)]).await;
    let applied = rig.apply(&ada, vec![shop.spec(&json!({ "type": "JSON" }))]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    assert_eq!(shop.users().await, ["2 null", "9007199254740993 x\ny"]);

    rig.put(&ada, "in", &[("users/a", "name,id\nz,1\n")]).await;
    let reason = latest(&rig, &ada).await.reason.unwrap();
    assert!(reason.contains("line 1: no JSON object"), "{reason}");
    let format = json!({ "type": "CSV", "columns": ["id", "name"] });
    let applied = rig.apply(&ada, vec![shop.spec(&format)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 0, 1);
    assert_eq!(shop.users().await, ["1 z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_killed_while_it_loads_loads_once_and_readers_see_the_old_rows_until_then() {
    let (mut rig, ada) = rig().await;
    let shop = Shop::start(&rig, &ada).await;
    rig.put(&ada, "in", &[("users/a", "1,old\n")]).await;
    let applied = rig.apply(&ada, vec![shop.spec(&json!({ "type": "CSV" }))]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);

    // Somebody holds the table, so the plane is killed in the middle of its transaction.
    let mut tx = shop.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table users in share mode")
        .execute(&mut *tx)
        .await
        .unwrap();
    let put = rig.put(&ada, "in", &[("users/a", "1,new\n2,new\n")]).await;
    job_in(&rig, &ada, JobState::Egressing).await;
    let waiting =
        "select pid::text from pg_stat_activity where application_name = 'howdah egress' and wait_event_type = 'Lock'";
    testkit::wait::wait_until("the load to wait", LIMIT, async || !shop.rows(waiting).await.is_empty()).await;
    assert_eq!(shop.users().await, ["1 old"]);
    rig.kill9();
    rig.boot().await;
    drop(tx);

    let job = rig.job(&ada, put.commit_set, "p").await;
    assert_eq!((job.state, job.reason), (JobState::Success, None));
    assert_eq!(shop.users().await, ["1 new", "2 new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_reached_only_where_the_configuration_names_its_host() {
    let (rig, ada) = rig().await;
    let shop = Shop::start(&rig, &ada).await;
    rig.put(&ada, "in", &[("users/a", "1,x\n")]).await;
    for host in ["localhost", "169.254.169.254", "db.example.org"] {
        let mut spec = shop.spec(&json!({ "type": "CSV" }));
        spec["egress"]["sql_database"]["url"] = json!(format!("postgresql://app@{host}/shop"));
        let refused = rig.refused(&ada, vec![spec]).await;
        assert_eq!(refused.errors[0].pointer, "/specs/0/egress");
        assert!(refused.detail.contains("HOWDAH_IMPORT_ALLOW"), "{}", refused.detail);
    }
}
