locals {
  zones = [for letter in var.zones : "${var.region}${letter}"]
}

resource "aws_vpc" "lab" {
  cidr_block           = var.network
  enable_dns_hostnames = true
  enable_dns_support   = true
  tags                 = { Name = var.cluster_name }
}

# By itself everybody in a network may reach everybody.
resource "aws_default_security_group" "nobody" {
  vpc_id = aws_vpc.lab.id
}

# Nodes are in the private ones. The public ones have the way out, and load balancers where somebody makes one.
resource "aws_subnet" "private" {
  for_each          = { for place, zone in local.zones : zone => place }
  vpc_id            = aws_vpc.lab.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.network, 4, each.value)
  tags = {
    Name                              = "${var.cluster_name}-private-${each.key}"
    "kubernetes.io/role/internal-elb" = "1"
  }
}

resource "aws_subnet" "public" {
  for_each          = { for place, zone in local.zones : zone => place }
  vpc_id            = aws_vpc.lab.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.network, 8, 240 + each.value)
  tags = {
    Name                     = "${var.cluster_name}-public-${each.key}"
    "kubernetes.io/role/elb" = "1"
  }
}

resource "aws_internet_gateway" "lab" {
  vpc_id = aws_vpc.lab.id
  tags   = { Name = var.cluster_name }
}

resource "aws_eip" "way_out" {
  domain     = "vpc"
  depends_on = [aws_internet_gateway.lab]
  tags       = { Name = "${var.cluster_name}-way-out" }
}

# One for both zones: about 35 dollars a month less than one each, and images cannot be pulled while its zone is gone.
resource "aws_nat_gateway" "way_out" {
  allocation_id = aws_eip.way_out.id
  subnet_id     = aws_subnet.public[local.zones[0]].id
  tags          = { Name = var.cluster_name }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.lab.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.lab.id
  }

  tags = { Name = "${var.cluster_name}-public" }
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.lab.id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.way_out.id
  }

  tags = { Name = "${var.cluster_name}-private" }
}

resource "aws_route_table_association" "public" {
  for_each       = aws_subnet.public
  subnet_id      = each.value.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table_association" "private" {
  for_each       = aws_subnet.private
  subnet_id      = each.value.id
  route_table_id = aws_route_table.private.id
}

# Who spoke with whom.
resource "aws_flow_log" "lab" {
  vpc_id          = aws_vpc.lab.id
  traffic_type    = "ALL"
  log_destination = aws_cloudwatch_log_group.network.arn
  iam_role_arn    = aws_iam_role.flow_log.arn
}

resource "aws_cloudwatch_log_group" "network" {
  name              = "/streamlab/${var.cluster_name}/network"
  retention_in_days = 365
  kms_key_id        = aws_kms_key.lab.arn
}
