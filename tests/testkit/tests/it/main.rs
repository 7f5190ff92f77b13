//! The testkit itself.

use testkit::postgres;

async fn one(url: &str) -> Result<i32, sqlx::Error> {
    let pool = sqlx::PgPool::connect(url).await?;
    sqlx::query_scalar("select 1").fetch_one(&pool).await
}

#[tokio::test]
async fn two_tests_get_two_databases_and_a_dropped_one_is_gone() {
    let first = postgres::fresh_database().await;
    let second = postgres::fresh_database().await;
    assert_ne!(first.url, second.url);
    let pool = first.pool().await;
    sqlx::query("create table only_here (a int)")
        .execute(&pool)
        .await
        .unwrap();
    let seen: bool = sqlx::query_scalar("select exists (select from pg_tables where tablename = 'only_here')")
        .fetch_one(&second.pool().await)
        .await
        .unwrap();
    assert!(!seen);
    let url = first.url.clone();
    drop(first);
    assert!(sqlx::PgPool::connect(&url).await.is_err());
}

#[tokio::test]
async fn a_dedicated_server_can_be_killed_and_comes_back_at_the_same_address() {
    let server = postgres::dedicated().await;
    assert_eq!(one(&server.url).await.unwrap(), 1);
    server.kill9();
    assert_eq!(server.process_id(), None);
    server.start();
    assert_eq!(one(&server.url).await.unwrap(), 1);
}

#[tokio::test]
async fn a_killed_process_is_gone() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    assert!(testkit::processes::is_alive(child.id()));
    testkit::processes::kill9(child.id());
    assert!(!testkit::processes::is_alive(child.id()));
    child.wait().unwrap();
}
