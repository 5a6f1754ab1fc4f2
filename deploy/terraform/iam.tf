locals {
  managed = "arn:${data.aws_partition.here.partition}:iam::aws:policy"
}

data "aws_iam_policy_document" "assume" {
  for_each = {
    cluster  = "eks.amazonaws.com"
    nodes    = "ec2.amazonaws.com"
    flow_log = "vpc-flow-logs.amazonaws.com"
  }

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = [each.value]
    }
  }
}

resource "aws_iam_role" "cluster" {
  name               = "${var.cluster_name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.assume["cluster"].json
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "${local.managed}/AmazonEKSClusterPolicy"
}

resource "aws_iam_role" "nodes" {
  name               = "${var.cluster_name}-nodes"
  assume_role_policy = data.aws_iam_policy_document.assume["nodes"].json
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.nodes.name
  policy_arn = "${local.managed}/${each.key}"
}

resource "aws_iam_role" "flow_log" {
  name               = "${var.cluster_name}-flow-log"
  assume_role_policy = data.aws_iam_policy_document.assume["flow_log"].json
}

resource "aws_iam_role_policy" "flow_log" {
  name   = "write"
  role   = aws_iam_role.flow_log.id
  policy = data.aws_iam_policy_document.flow_log.json
}

data "aws_iam_policy_document" "flow_log" {
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    resources = ["${aws_cloudwatch_log_group.network.arn}:*"]
  }
}

# The storage drivers' pods have roles of their own, by the association of a service account: nodes have none of their rights.
data "aws_iam_policy_document" "assume_by_pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "storage" {
  for_each           = local.storage
  name               = "${var.cluster_name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assume_by_pods.json
}

resource "aws_iam_role_policy_attachment" "storage" {
  for_each   = local.storage
  role       = aws_iam_role.storage[each.key].name
  policy_arn = "${local.managed}/service-role/${each.value.policy}"
}

# Disks are encrypted with the lab's key: the driver asks for it, and only where the cloud's disks use it.
resource "aws_iam_role_policy" "disks_key" {
  name   = "key"
  role   = aws_iam_role.storage["disks"].id
  policy = data.aws_iam_policy_document.disks_key.json
}

data "aws_iam_policy_document" "disks_key" {
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:CreateGrant", "kms:DescribeKey"]
    resources = [aws_kms_key.lab.arn]
  }
}
